//! The one integration binary: through the front door, against the embedded broker and Debian's mosquitto.
//!
//! Every test is an async function that is named in the list below; one that is forgotten is dead code, which
//! the lints refuse.

mod access;
mod access_cases;
mod access_served;
mod batch;
mod bombs;
mod cache;
mod capabilities;
mod check;
mod chunked;
mod cli;
mod client;
mod clients;
mod contract;
mod depot;
mod doctor;
mod embedded_broker;
mod embedded_clients;
mod embedded_queue;
mod fairness;
mod fake_broker;
mod faults;
mod faults_mosquitto;
mod fenced;
mod flow;
mod garbage;
mod hostile;
mod lanes;
mod languages;
mod leave;
mod ledger;
mod lifecycle;
mod modules;
mod mosquitto;
mod mutated;
mod nothing_lost;
mod packets;
mod poison;
mod pressure;
mod project;
mod proxy;
mod raw_client;
mod reconnect;
mod rejections;
mod restart;
mod rig;
mod schema_of_outcomes;
mod schema_of_tasks;
mod schemas;
mod serve;
mod shapes;
mod shown;
mod signed;
mod smith;
mod sources;
mod ssrf;
mod stock;
mod stranger;
mod tenants;
mod transports;
mod under_test;
mod unfit;
mod unheard;
mod windows;

use std::collections::BTreeMap;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

macro_rules! tests {
    ($($module:ident: $($name:ident),* $(,)?;)*) => {
        fn tests() -> Vec<Trial> {
            vec![$($(
                Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
                    rig::block_on($module::$name());
                    Ok(())
                }),
            )*)*]
        }
    };
}

tests! {
    nothing_lost: an_id_again_is_answered_with_the_recorded_outcome, retries_and_the_dead_letter,
        the_guests_retry_after_is_honoured, a_delayed_task_starts_on_time_after_a_restart,
        an_expired_task_does_not_start, cancel_wherever_it_waits, the_outbox_is_replayed,
        an_outcome_can_be_asked_for, the_group_remembers, poison_is_given_up, a_recurring_task_is_submitted_once,
        slots_are_taken_over, a_module_that_stays_unavailable;
    leave: a_slot_is_given_up;
    embedded_broker: properties_pass_through, retained_messages_are_kept_replaced_and_cleared,
        a_large_module_is_retained_and_a_larger_one_refused, a_last_will_is_published_when_the_connection_drops,
        a_full_broker_refuses_and_says_so, brokers_are_independent_and_stop_frees_the_port,
        stopping_under_load_leaves_nothing;
    embedded_clients: both_versions_on_one_listener, properties_reach_mosquitto,
        an_old_publisher_is_not_told_success_when_the_broker_is_full;
    embedded_queue: each_group_gets_every_message_once, a_dead_members_messages_go_to_another_at_once,
        a_dead_members_small_window_goes_to_another_at_once, an_expired_sessions_messages_go_to_another,
        a_plain_subscribers_death_resends_nothing, nothing_is_lost_while_members_come_and_go_under_load,
        a_member_has_no_more_in_hand_than_its_window_and_the_idle_help, a_slow_members_share_is_small,
        messages_that_nobody_takes_are_parked_in_order, the_last_members_messages_are_parked_when_it_dies,
        a_groups_messages_wait_for_it_while_another_group_is_served,
        a_member_that_is_away_finds_everything_when_it_returns,
        what_is_sent_while_a_member_is_away_goes_to_one_that_comes,
        a_clean_start_gives_the_old_sessions_messages_back,
        a_message_too_large_for_a_member_is_discarded_and_kills_nobody;
    mosquitto: a_module_and_a_json_task, a_plain_text_at_qos_0, properties_and_a_response_topic,
        request_and_response, a_tenants_topics, push_and_submit, one_of_two_runners_leaves,
        one_of_two_runners_is_killed;
    transports: websocket, unix_socket, tls_with_a_client_certificate, tls_with_an_authority_that_is_not_trusted,
        password_in_a_file, wrong_password;
    reconnect: the_link_is_cut_again_and_again, a_stalled_link_is_noticed, a_stalled_link_is_noticed_under_way,
        the_link_is_cut_before_the_outcomes_puback, two_runners_of_one_name_lose_nothing, the_broker_comes_later;
    restart: the_broker_is_restarted_in_the_middle, the_link_is_cut_again_and_again,
        two_runners_of_one_name_lose_nothing;
    unfit: a_willing_broker_is_fit, what_a_broker_lacks_is_named, a_refused_connection_is_named,
        a_refused_subscription_is_named, a_session_taken_over_ends_the_runner;
    windows: completion_order_waits_for_nobody, arrival_order_waits_for_the_head, the_prefetch_is_honoured;
    flow: json_task, properties_task, properties_task_that_fails, plain_task, plain_task_without_default_module,
        tenants_are_apart, answers_stay_with_the_tenant, reply_and_correlation_in_json,
        response_topic_of_a_json_task, input_and_output, json_input_is_not_rewritten,
        a_task_without_an_id_gets_one;
    rejections: fields, what_is_not_allowed, what_is_allowed, user_properties, message_expiry;
    lifecycle: events, log_of_a_typed_guest, log_of_a_command, nothing_is_said_unasked, the_same_id_again,
        drain_hands_back_what_waits, drain_ends_after_its_grace, presence;
    hostile: endless_loop_without_fuel, endless_loop_past_its_deadline, endless_recursion, memory_bomb,
        memory_bomb_at_the_default_limit, table_bomb, many_memories, alloc, huge_output, output_over_the_limit,
        stdout_flood, log_flood, trap, divide_by_zero, burn_and_trap, panic, exit_code, sleeping_host_call, guest_error, wants_http,
        wants_blobstore,
        reads_files;
    poison: nobody_can_poison_the_connection;
    pressure: endless_loops_delay_nobody, busy_host_calls_delay_nobody;
    garbage: garbage;
    bombs: the_corpus, the_jail_alone, a_failure_is_remembered, the_jail_is_bare, a_killed_compiler;
    modules: from_a_folder, a_task_that_waited_runs_what_is_there_then, a_published_module_does_not_shadow_the_folder, from_the_retained_topic, never_published,
        pinned_by_digest, a_pin_waits_for_its_module, a_wrong_pin_is_refused_at_once,
        a_file_is_read_again_whatever_its_date, by_digest_from_a_folder, what_is_no_module,
        a_cold_module_is_compiled_once, the_cache_folder,
        an_open_cache_folder_is_refused, a_missing_module_folder_is_refused;
    sources: from_a_web_server, one_fetch_for_many_tasks, what_a_web_server_does_wrong, from_a_registry,
        what_a_registry_does_wrong, a_registry_that_wants_to_know_who_asks,
        a_store_is_told_no_credentials, a_credential_helper_that_has_nothing, fetching_reaches_nothing_inside,
        a_source_that_is_down, a_stalling_registry_delays_nobody;
    signed: in_each_source, nothing_unsigned_is_read, by_hand;
    chunked: twelve_megabytes_through_mosquitto, what_is_wrong_with_chunks;
    shapes: a_command_of_wasip1, environment_and_exit_code, a_core_module_with_metadata, hostile_core_modules,
        inspected_and_run;
    cache: found_again_in_milliseconds, runners_share_a_compilation, bounded, listed_and_pruned, warmed_up;
    mutated: mutated_files;
    capabilities: what_is_not_granted_is_refused_by_name,
        a_refusal_compiles_nothing_and_a_compiled_module_is_refused_too, what_is_on_disk_is_refused_too,
        secrets_are_the_guests_alone,
        keys_and_values_outlive_tasks_and_restarts, messages_go_below_the_tenants_prefix, clocks_and_chance,
        a_scratch_folder_and_its_quota, check, run_with_grants;
    ssrf: a_guest_reaches_the_one_host_and_no_other, requests_are_bounded, a_deadline_ends_a_request,
        https_is_verified;
    cli: help, wrong_arguments, demo, run, inspect, bench;
    check: effective, refuses, a_costly_module;
    schemas: words_agree, the_asyncapi_document, the_official_schema, printed;
    schema_of_tasks: the_decoder_agrees;
    schema_of_outcomes: the_encoder_agrees;
    client: the_link_is_cut_before_the_outcome, the_broker_is_restarted, what_is_lost_is_published_again,
        what_is_heard_of_is_not_published_again, the_client_goes, cancel_and_ask,
        by_hand, interrupted, flags;
    clients: shell, python, javascript, php;
    unheard: a_runner_comes_later;
    faults: the_checker_tells, killed_runners, rolling_restarts, a_stopped_runner, killed_submitters, links_cut,
        links_cut_with_dedupe_in_the_group,
        links_half_closed, links_cut_in_a_packet, slow_links, a_partition, cut_before_the_outcome_arrives,
        cut_before_the_outcomes_puback, clock_jumps, a_full_disk;
    faults_mosquitto: killed_runners, rolling_restarts, a_stopped_runner, links_cut,
        killed_broker_that_saves_every_change, killed_broker_as_installed, a_broker_that_forgets,
        cut_before_the_outcome_arrives, cut_before_the_outcomes_puback;
    tenants: what_a_tenant_may_not, unlisted_tenants_are_denied, over_the_rate, the_configuration_is_read_again,
        the_embedded_broker_keeps_nothing_of_denied_tenants;
    lanes: lanes_are_cut, a_tenants_tasks_run_once, a_tenant_goes_and_comes_back, a_tenant_that_came_before_the_broker,
        a_tenant_that_went_while_the_runner_was_away, what_was_let_in_stays_in;
    smith: made_up_modules_disturb_nobody;
    fairness: fuel_follows_the_weights, a_flood_delays_no_neighbour;
    ledger: the_table_is_complete;
    access: matrix_on_mosquitto, matrix_on_the_embedded_broker;
    access_served: tenants_on_mosquitto, tenants_on_the_embedded_broker, nobody_takes_a_runners_place_on_mosquitto,
        nobody_takes_a_runners_place_on_the_embedded_broker, nobody_comes_in_without_a_password,
        an_open_broker_is_refused;
    doctor: a_broker_that_is_well, a_pattern_acl_is_fatal, mosquitto_as_installed, a_denial_that_closes_the_connection,
        serve_warns_or_refuses;
    project: rust, c, zig, assemblyscript, typescript, javascript, python, go, wat, nothing_is_overwritten,
        what_is_missing_is_named, a_toolchains_error_is_shown_once, saved_while_it_is_built, what_is_built_is_checked, run_and_test,
        dev_shows_what_changed, the_templates_are_current;
    languages: rust_and_wat, c, zig, assemblyscript, typescript, python, go, every_example_is_run,
        toolchains_are_those_of_the_examples;
    serve: serve_push_and_submit, push_checks, no_outcome_in_time, last_will,
        gives_up_privileges;
}

/// The modules whose tests start Debian's mosquitto or its clients.
const NEED_MOSQUITTO: &[&str] = &[
    "access",
    "access_served",
    "chunked",
    "clients",
    "doctor",
    "embedded_clients",
    "faults_mosquitto",
    "lanes",
    "leave",
    "mosquitto",
    "poison",
    "restart",
    "transports",
    "unheard",
];

fn main() -> ExitCode {
    if let Some(submitted) = faults::submitter::wanted() {
        return submitted;
    }
    let arguments = Arguments::from_args();
    // A backtrace through a runtime says nothing, and pushes what was said out of sight.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let mut tests = tests();
    // In CI they run all the same, and fail.
    let left_out = match std::env::var_os("CI") {
        Some(_) => BTreeMap::new(),
        None => leave_out(&mut tests),
    };
    let conclusion = libtest_mimic::run(&arguments, tests);
    if !arguments.list {
        for ((what, how), count) in left_out {
            println!(
                "left out: {count} tests that need {what}, not installed here.\nTo run them: {how}"
            );
        }
    }
    conclusion.exit_code()
}

/// Marks the tests that need what is not installed as ignored; what that is, how to get it, and how many they are.
fn leave_out(tests: &mut Vec<Trial>) -> BTreeMap<(String, &'static str), usize> {
    let mut left_out = BTreeMap::new();
    let no_mosquitto = (!stock::installed()).then_some((
        "Debian's mosquitto",
        "apt-get install mosquitto mosquitto-clients",
    ));
    let mut languages = languages::left_out();
    languages.extend(project::left_out());
    let toolchain = |name: &str| {
        let (_, language) = languages.iter().find(|(test, _)| test == name)?;
        Some((format!("a toolchain of {language}"), languages::INSTALL))
    };
    *tests = tests
        .drain(..)
        .map(|test| {
            let module = test.name().split("::").next().unwrap_or_default();
            let mosquitto = no_mosquitto.filter(|_| NEED_MOSQUITTO.contains(&module));
            let lacks = mosquitto
                .or_else(|| clients::lacking(test.name()))
                .map(|(what, how)| (what.to_owned(), how))
                .or_else(|| toolchain(test.name()));
            let ignored = lacks.is_some();
            if let Some(lack) = lacks {
                *left_out.entry(lack).or_default() += 1;
            }
            // Not where nothing is lacking: one may be ignored for another reason.
            match ignored {
                true => test.with_ignored_flag(true),
                false => test,
            }
        })
        .collect();
    left_out
}
