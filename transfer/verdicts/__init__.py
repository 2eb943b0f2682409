"""From a study's figures to what one may claim, and the whole bill; nothing here trains."""
