//! Real processes, real mounts: what the file system promises, checked from outside.
//!
//! Run one by name: `cargo test --release -p pvfs2-tests --test mounted -- crash::each_server`.
//! `PVFS2_KILL_ROUNDS` (default 1, `just kill-rounds` 20) and `PVFS2_SEED` steer the kill -9 rounds.
#![allow(clippy::unwrap_used, clippy::expect_used)] // all test: a panic is a verdict
mod ahead;
mod bench;
mod coherence;
mod copies;
mod counts;
mod crash;
mod growth;
mod joining;
mod locks;
mod name_rights;
mod pages;
mod posix;
mod quotas;
mod rights;
mod shared_memory;
mod splits;
mod stalled;
mod start_stop;
mod strips;
mod twin;
mod wire;
mod writeback;

use std::process::ExitCode;

fn main() -> ExitCode {
    if crash::is_writer() {
        return ExitCode::SUCCESS;
    }
    pvfs2_tests::runner::run(pvfs2_tests::cases![
        Nothing:
            wire::garbage_is_cut_off_and_harms_nobody,
            wire::declared_lengths_are_checked_before_anything_is_allocated,
            start_stop::mkfs_refuses_a_folder_that_is_not_empty,
            start_stop::a_server_refuses_storage_of_another_file_system,
            start_stop::two_servers_cannot_open_one_storage_space,
            start_stop::mount_of_nothing_says_what_to_do,
            bench::ior_without_a_mount_verifies_and_finds_damage,
            bench::mdtest_without_a_mount_leaves_nothing_behind,
            bench::clients_on_other_hosts_need_the_key;
        Mount:
            strips::strip_i_lies_on_datafile_i_mod_n,
            strips::other_distributions_lie_where_they_say,
            strips::no_datafile_for_empty_or_small_files,
            strips::removed_files_leave_no_datafile,
            coherence::without_caches_at_once,
            coherence::without_caches_at_once_over_three_metadata_servers,
            coherence::with_caches_within_the_timeouts,
            coherence::with_caches_within_the_timeouts_over_three_metadata_servers,
            shared_memory::writes_are_shared_and_without_it_sent,
            shared_memory::a_server_that_wakes_up_late_writes_what_was_meant,
            pages::own_writes_keep_them,
            pages::own_writes_keep_them_without_caches,
            pages::others_changes_are_seen_at_once_without_caches,
            pages::others_changes_are_seen_at_the_next_open,
            name_rights::new_names_are_not_asked_for,
            name_rights::what_another_mount_makes_is_seen_at_once,
            name_rights::a_killed_holder_delays_others_for_its_lease_at_most,
            name_rights::a_holder_that_was_stopped_asks_again,
            name_rights::a_killed_metadata_server_ends_them,
            joining::small_writes_travel_together,
            joining::strided_writers_fill_blocks_together,
            joining::others_see_each_write_that_was_answered,
            joining::what_is_held_back_is_sent_soon,
            joining::a_killed_holder_delays_others_for_its_lease_at_most,
            joining::a_holder_that_was_stopped_overwrites_nothing,
            joining::a_killed_metadata_server_loses_nothing_that_is_held_back,
            joining::what_cannot_be_written_is_told_once,
            joining::what_finds_no_room_is_told_and_counts_in_no_size,
            joining::an_unmount_writes_out_what_is_held_back,
            writeback::small_writes_gather_in_the_kernel,
            writeback::files_opened_for_writing_only_are_right,
            writeback::any_operations_leave_what_a_local_file_has,
            writeback::what_finds_no_room_is_told_by_fsync,
            writeback::an_unmount_writes_out_what_the_kernel_holds,
            twin::one_metadata_server,
            twin::three_metadata_servers,
            twin::three_metadata_servers_and_kills,
            ahead::the_servers_disks_read_the_next_files,
            ahead::not_where_it_is_switched_off_or_not_worth_it,
            ahead::what_changes_before_the_open_is_seen_by_it,
            counts::a_create_is_one_request,
            counts::many_files_are_synced_by_one_call,
            counts::open_read_close_of_a_small_file_is_at_most_two,
            counts::names_looked_up_one_after_another_are_listed,
            counts::a_listing_is_asked_for_once_while_names_are_believed,
            counts::one_mebibyte_over_four_servers_is_one_request_to_each,
            counts::an_overwrite_is_an_open_and_a_setattr,
            counts::changes_of_names_are_one_request,
            counts::a_thread_looks_for_the_next_request,
            posix::direct_io,
            posix::reads_of_what_is_overwritten_meanwhile,
            posix::a_program_that_runs_is_not_emptied,
            posix::shared_mmap,
            posix::sparse_files_and_holes,
            posix::extended_attributes,
            posix::rename_flags,
            posix::names_links_and_special_files,
            posix::open_unlinked_files_live_on,
            posix::times_have_nanoseconds,
            posix::a_large_directory_is_listed_whole,
            rights::largest_attributes_and_names,
            rights::file_handles_outlive_the_kernels_memory,
            copies::cp_of_a_large_file_costs_requests_and_no_bytes,
            copies::ranges_of_any_kind_are_copied,
            copies::holes_stay_holes_and_cover_what_was_there,
            copies::a_copy_ends_early_where_a_server_is_dead,
            splits::two_mounts_fill_a_directory_that_splits,
            stalled::a_waiting_process_can_be_killed,
            stalled::unmount_works_with_dead_servers,
            stalled::a_dead_server_costs_bounded_retries,
            start_stop::quickstart_keeps_data_and_leaves_nothing_behind,
            start_stop::a_stale_mount_is_mended,
            start_stop::a_second_quickstart_is_refused,
            bench::all_of_it_through_a_mount,
            bench::the_articles_experiments_are_measured_and_drawn,
            growth::servers_join_an_existing_file_system,
            growth::a_quickstart_grows,
            crash::each_server_in_turn,
            crash::all_servers_at_once,
            crash::several_metadata_servers;
        MountAndPython:
            posix::locks_between_processes,
            rights::changes_by_others_clear_suid_and_sgid,
            rights::sticky_directories_and_times_of_others,
            rights::access_times,
            writeback::killed_servers_lose_nothing_that_the_kernel_holds,
            writeback::times_are_the_kernels_and_others_may_touch,
            quotas::a_user_meets_the_limit,
            quotas::a_tree_over_three_metadata_servers,
            locks::a_counter_under_a_lock_loses_nothing,
            locks::ranges_exclude_between_mounts,
            locks::a_file_opened_for_reading_is_unlocked_by_its_close,
            locks::who_waits_is_woken_by_the_unlock,
            locks::a_deadlock_between_mounts_is_refused,
            locks::a_killed_waiter_is_gone_and_gets_nothing,
            locks::a_signal_ends_the_wait,
            locks::a_killed_holder_frees_its_locks,
            locks::a_killed_mount_frees_its_locks_after_its_lease,
            locks::locks_outlive_a_killed_server,
            locks::two_mounts_write_one_sqlite_database,
            locks::locks_cost_what_they_say,
    ])
}
