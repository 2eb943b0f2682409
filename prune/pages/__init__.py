"""The HTML frame that all pages share: the gallery of an index, and the pages of charts in transfer/pages."""
