//! Tests of the collection; filled below.
