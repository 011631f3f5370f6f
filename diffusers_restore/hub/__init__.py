"""Saving, pushing and loading: model cards, what is refused of foreign repositories, files that name classes."""
