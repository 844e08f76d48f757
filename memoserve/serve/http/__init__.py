"""HTTP itself: the application, access control, the dashboard's files, listening."""
