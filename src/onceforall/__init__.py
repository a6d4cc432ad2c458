"""onceforall: train one elastic network, then specialise it for any device and limit."""
