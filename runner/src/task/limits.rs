//! What a task may use: the four limits, and where each came from.

use std::fmt;

/// The limits that a task asks for; what it leaves out is the configured default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestedLimits {
    /// Units of wasmtime's fuel, about one per wasm instruction.
    pub fuel: Option<u64>,
    /// Bytes, summed over the guest's linear memories.
    pub memory_bytes: Option<u64>,
    /// Milliseconds from the start of the guest.
    pub timeout_ms: Option<u64>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
}

/// Who set a limit: a message names it, so that the reader knows what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The task itself.
    Task,
    /// The runner's `[limits]`.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Task => "limit from the task",
            Origin::Default => "the runner's default limit",
        })
    }
}

/// One limit and its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In the limit's own unit.
    pub value: u64,
    /// Who set it.
    pub origin: Origin,
}

/// The limits in force for one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Units of wasmtime's fuel.
    pub fuel: Limit,
    /// Bytes, summed over memories.
    pub memory_bytes: Limit,
    /// Milliseconds.
    pub timeout_ms: Limit,
    /// Bytes.
    pub output_bytes: Limit,
}

/// A value for each of the four limits: the configured defaults, or the ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitValues {
    /// Units of wasmtime's fuel.
    pub fuel: u64,
    /// Bytes, summed over memories.
    pub memory_bytes: u64,
    /// Milliseconds.
    pub timeout_ms: u64,
    /// Bytes.
    pub output_bytes: u64,
}

impl RequestedLimits {
    /// These, and for what they leave out those.
    #[must_use]
    pub fn or(self, those: RequestedLimits) -> RequestedLimits {
        RequestedLimits {
            fuel: self.fuel.or(those.fuel),
            memory_bytes: self.memory_bytes.or(those.memory_bytes),
            timeout_ms: self.timeout_ms.or(those.timeout_ms),
            output_bytes: self.output_bytes.or(those.output_bytes),
        }
    }

    /// What is in force: the task's value where it has one, else the default. A value above its ceiling,
    /// or zero, is refused by name, never clipped.
    pub fn resolve(
        &self,
        defaults: &LimitValues,
        ceilings: &LimitValues,
    ) -> Result<Limits, String> {
        let pick = |name, asked: Option<u64>, default: u64, ceiling: u64| match asked {
            None => Ok(Limit {
                value: default,
                origin: Origin::Default,
            }),
            Some(0) => Err(format!("`limits.{name}` must be at least 1, got 0")),
            Some(value) if value > ceiling => Err(format!(
                "`limits.{name}` may be at most {ceiling}, got {value}"
            )),
            Some(value) => Ok(Limit {
                value,
                origin: Origin::Task,
            }),
        };
        Ok(Limits {
            fuel: pick("fuel", self.fuel, defaults.fuel, ceilings.fuel)?,
            memory_bytes: pick(
                "memory_bytes",
                self.memory_bytes,
                defaults.memory_bytes,
                ceilings.memory_bytes,
            )?,
            timeout_ms: pick(
                "timeout_ms",
                self.timeout_ms,
                defaults.timeout_ms,
                ceilings.timeout_ms,
            )?,
            output_bytes: pick(
                "output_bytes",
                self.output_bytes,
                defaults.output_bytes,
                ceilings.output_bytes,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: LimitValues = LimitValues {
        fuel: 10,
        memory_bytes: 20,
        timeout_ms: 30,
        output_bytes: 40,
    };
    const CEILINGS: LimitValues = LimitValues {
        fuel: 100,
        memory_bytes: 200,
        timeout_ms: 300,
        output_bytes: 400,
    };

    #[test]
    fn the_task_wins_up_to_the_ceiling() {
        let asked = RequestedLimits {
            fuel: Some(100),
            ..Default::default()
        };
        let limits = asked
            .resolve(&DEFAULTS, &CEILINGS)
            .expect("within the ceiling");
        assert_eq!(
            limits.fuel,
            Limit {
                value: 100,
                origin: Origin::Task
            }
        );
        assert_eq!(
            limits.memory_bytes,
            Limit {
                value: 20,
                origin: Origin::Default
            }
        );
    }

    #[test]
    fn beyond_the_ceiling_is_refused_not_clipped() {
        let asked = RequestedLimits {
            timeout_ms: Some(301),
            ..Default::default()
        };
        let refused = asked.resolve(&DEFAULTS, &CEILINGS);
        assert_eq!(
            refused,
            Err("`limits.timeout_ms` may be at most 300, got 301".to_owned())
        );
        let asked = RequestedLimits {
            output_bytes: Some(0),
            ..Default::default()
        };
        assert!(asked.resolve(&DEFAULTS, &CEILINGS).is_err());
    }
}
