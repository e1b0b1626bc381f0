"""Export of students to formats that run without this package."""
