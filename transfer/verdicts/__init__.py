"""From a study's results to what they show, and to what everything cost; nothing here trains."""
