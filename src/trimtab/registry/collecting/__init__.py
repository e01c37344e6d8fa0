"""Garbage collection of artifacts and orphaned blobs."""
