"""Images: data sets of them, decoded once or each time, in memory or streamed."""
