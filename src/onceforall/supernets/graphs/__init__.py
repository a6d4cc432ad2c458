"""Networks of any shape: traced, analysed, made elastic, and plain again."""
