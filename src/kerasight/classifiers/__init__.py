"""From a name or a file to a classifier of pictures, and from files to pictures."""
