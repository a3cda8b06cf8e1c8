"""The tests of nntrain, laid out as the package is; the laws are in tests/laws."""
