//! What a request may ask of sampling.
