"""An index as a page of pictures: what is kept, what is dropped."""
