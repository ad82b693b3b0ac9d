//! The names of our variables in the environment.

/// The absolute path of the pid file: where it is to be, when we are asked without a path or a name;
/// where it is, in the payload's environment.
pub const PID_FILE: &str = "GATEWAY_PID_FILE";

/// The directory of all pid files.
pub const STATE_DIR: &str = "GATEWAY_STATE_DIR";

/// The gateway's pid, in the payload's environment.
pub const PID: &str = "GATEWAY_PID";

/// The run ids of the gateways above a process, outermost first, joined by `:`.
pub const RUN_ID: &str = "GATEWAY_RUN_ID";

/// The generation, in the payload's environment.
pub const GENERATION: &str = "GATEWAY_GENERATION";
