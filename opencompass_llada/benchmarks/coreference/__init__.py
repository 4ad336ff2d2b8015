"""Multi-round coreference: the n-th of several near-identical requests, after MRCR."""
