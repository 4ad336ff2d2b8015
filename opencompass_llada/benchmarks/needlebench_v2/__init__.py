"""NeedleBench v2: one needle, eleven, or a chain of kinship in a haystack; and kinship alone."""
