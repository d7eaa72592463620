"""HTTP: server, security, bodies, decoding, operations. This room knows none of the others."""
