"""HTTP: server, security, bodies, decoding, operations. Imports no other room of serving."""
