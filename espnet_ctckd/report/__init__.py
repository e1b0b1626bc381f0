"""A web page that compares teachers and students."""
