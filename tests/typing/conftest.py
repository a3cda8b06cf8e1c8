"""Nothing in `mistakes` is a test, nor can all of it be imported."""

collect_ignore = ["mistakes"]
