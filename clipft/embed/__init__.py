"""`clipft embed`: the features of images and texts, as files for elsewhere and as a map in two dimensions."""
