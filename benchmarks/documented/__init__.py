"""What the docs hold of records: look-ups in records, and the tables that are made from them."""
