"""Networks and other trained parts that diffusers lacks."""
