//! A model file, a device and an engine put together.
