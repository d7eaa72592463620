"""Cards: a policy as one web page that plays it, with what is known of it in words. Imports no PyTorch."""
