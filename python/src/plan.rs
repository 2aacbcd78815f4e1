//! Plans for Python, as JSON.

use cupscale::pipeline::Plan;
use serde_json::Value;

/// The plan as JSON, with the text that the program prints; of the first enlarger its name alone.
pub fn to_json(plan: &Plan) -> Value {
    let mut json = plan.to_json();
    json["first"] = plan.first.as_ref().map(|first| first.name.as_str()).into();
    json["text"] = plan.to_string().into();
    json
}
