"""Which samples to keep: gates, quotas, ranks, and the named methods that combine them."""
