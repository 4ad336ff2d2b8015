"""MRCR v2: which of several near-identical requests of a long conversation was answered how."""
