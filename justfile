# Recipes for people who have `just`; CI needs only .ci/run, and each recipe is one plain command.

# everything that CI does
ci:
    .ci/run

# the README's second command
test:
    cargo test --workspace --release

# format, clippy, rustdoc, all without warnings
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# real programs on a quickstart cluster; `just programs fsx pjdfstest` runs the named ones
programs *NAMES:
    cargo build --release
    tests/programs/run-all.sh {{NAMES}}

# the file system exerciser and fio's verification with write-back by the kernel
writeback:
    QUICKSTART_ARGS="-o writeback" tests/programs/run-all.sh fsx fio_verify

# MPI-IO from two mounts without caches of names and attributes
mpi-io:
    QUICKSTART_ARGS="-o acache-ms=0,ncache-ms=0" tests/programs/run-all.sh mpi_io

# kill -9 of each server in turn and of all at once, under load
kill-rounds ROUNDS="20":
    PVFS2_KILL_ROUNDS={{ROUNDS}} cargo test --release -p pvfs2-tests --test mounted -- crash::

# seeds of the simulation
sim SEEDS="2000":
    PVFS2_SIM_SEEDS={{SEEDS}} cargo test --release -p pvfs2-tests --test sim

# every fuzz target
fuzz SECONDS="60":
    fuzz/run.sh {{SECONDS}}

# the mount, a local directory, the pass-through FUSE file system and MooseFS in one interleaved run
bench ROUNDS="3":
    bench/compare.sh {{ROUNDS}}
