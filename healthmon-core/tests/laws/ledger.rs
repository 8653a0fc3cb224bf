//! The oracle's ledger, which takes each input in once, says what the oracle says.

use std::collections::BTreeSet;

use healthmon_core::engine::{
    Control, Input,
    oracle::{Ledger, Oracle},
    strategies,
};
use proptest::{prop_assert_eq, proptest};

proptest! {
    #[test]
    fn the_ledger_is_the_oracle(timeline in strategies::timelines(strategies::thresholds())) {
        let mut ledger = Ledger::registered(timeline.policy, &timeline.regions);
        let mut oracle = Oracle::registered(timeline.policy, &timeline.regions);
        let mut known: BTreeSet<_> = timeline.regions.iter().cloned().collect();
        for input in &timeline.inputs {
            prop_assert_eq!(ledger.apply(input), oracle.apply(input), "{:?}", input);
            let said = (oracle.status(), oracle.applied(), oracle.epoch());
            prop_assert_eq!((ledger.status(), ledger.applied(), ledger.epoch()), said, "{:?}", input);
            if let Input::Control(Control::Configure { regions, .. }) = input {
                known.extend(regions.iter().cloned());
            }
            for region in &known {
                prop_assert_eq!(ledger.region(region).cloned(), oracle.region(region), "{:?}: {:?}", region, input);
            }
        }
    }
}
