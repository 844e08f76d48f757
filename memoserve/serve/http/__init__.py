"""HTTP itself: the application, who may ask, the dashboard's files, listening."""
