"""The laws of DESIGN.md, section 9, as property tests: one file a law."""
