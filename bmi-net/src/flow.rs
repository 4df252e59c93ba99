//! placeholder for flows
/// A body that comes as a flow.
pub struct FlowBody {}
