"""Networks of any shape: traced, analysed, made elastic, and plain again.

In the order of reading: `trace` gives a program (`rewrite` and `shapes` spell it one way), `rules`
say what each operator does to channels, `groups` which go together, `blocks` what can be skipped;
`assemble` makes the elastic `spec`, `supernet` runs it, `network` is a subnet of it, plain.
"""
