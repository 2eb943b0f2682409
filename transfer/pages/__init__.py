"""Charts, tables and pages of HTML: one file each, which opens without a network."""
