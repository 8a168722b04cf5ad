//! The runner of models: the same scenarios under loom, which runs every schedule with few preemptions, and under
//! shuttle, which runs many schedules at random.

/// Defines a test of each scenario, with the name of its function.
macro_rules! scenarios {
    ($($scenario:ident)*) => {
        mod checked {
            $(#[test]
            fn $scenario() {
                $crate::sync::schedules::check(super::$scenario);
            })*
        }
    };
}

pub(crate) use scenarios;

/// Runs a scenario with every schedule of at most three preemptions, unless the environment sets another bound. Few
/// preemptions are enough for most bugs, and there are not many schedules with so few.
#[cfg(loom_models)]
pub(crate) fn check(scenario: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = 10_000;
    builder.check(scenario);
}

/// Runs a scenario with as many schedules as the environment sets, half of them with few preemptions.
#[cfg(shuttle_models)]
pub(crate) fn check(scenario: fn()) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let schedules = std::env::var("HOTSET_SCHEDULES").map_or(2_000, |it| it.parse().unwrap());
    // Shuttle orders all atomics sequentially, and would warn of it. Weaker orderings are left to loom.
    let mut config = shuttle::Config::new();
    config.silence_warnings = true;
    let random = RandomScheduler::new(schedules / 2);
    shuttle::Runner::new(random, config.clone()).run(scenario);
    let few_preemptions = PctScheduler::new(3, schedules - schedules / 2);
    shuttle::Runner::new(few_preemptions, config).run(scenario);
}
