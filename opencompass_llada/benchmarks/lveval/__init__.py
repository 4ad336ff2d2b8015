"""LV-Eval: eleven question-answering tasks at five lengths from 16k to 256k words."""
