"""Do two settings give the same answers? Both run on the same samples of any benchmark."""
