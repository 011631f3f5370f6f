"""Saving, pushing and loading: model cards, checks of foreign repositories, files that name classes."""
