//! Tests of bstreams; filled below.
