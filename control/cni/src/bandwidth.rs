//! The capability `bandwidth`: how much the container may send and receive, as the reference plugin `bandwidth` has it.

use serde::Deserialize;
use shunt_control_api::v1;

use crate::error::{CniError, Code, Result};

/// `runtimeConfig.bandwidth`. Bits and bits per second; 0: no limit. Containerd writes its keys like Go's fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// What the container receives.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// What of it may come at once.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// What it sends.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// What of it may come at once.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

impl Bandwidth {
    /// What the switch is asked for; `None`: nothing is limited.
    ///
    /// # Errors
    /// A rate without a burst, or a burst without a rate: names the key.
    pub fn read(&self) -> Result<Option<v1::Bandwidth>> {
        let ingress = rate("ingress", self.ingress_rate, self.ingress_burst)?;
        let egress = rate("egress", self.egress_rate, self.egress_burst)?;
        Ok((ingress.is_some() || egress.is_some()).then_some(v1::Bandwidth { ingress, egress }))
    }
}

fn rate(direction: &str, bits_per_second: u64, burst_bits: u64) -> Result<Option<v1::Rate>> {
    let refuse = |key: &str, other: &str| {
        let message = format!("runtimeConfig.bandwidth.{direction}{key}: missing");
        CniError::new(Code::InvalidConfig, message, format!("{direction}{other} is given; give both, or neither"))
    };
    match (bits_per_second, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(refuse("Rate", "Burst")),
        (_, 0) => Err(refuse("Burst", "Rate")),
        _ => Ok(Some(v1::Rate { bits_per_second, burst_bits })),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(json: Value) -> Result<Option<v1::Bandwidth>> {
        serde_json::from_value::<Bandwidth>(json).unwrap().read()
    }

    #[test]
    fn what_runtimes_write_is_read() {
        let ingress = Some(v1::Rate { bits_per_second: 1000, burst_bits: 4_294_967_295 });
        let one = Ok(Some(v1::Bandwidth { ingress, egress: None }));
        assert_eq!(of(json!({ "ingressRate": 1000, "ingressBurst": 4_294_967_295_u64 })), one);
        let containerd =
            json!({ "IngressRate": 1000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 0, "EgressBurst": 0 });
        assert_eq!(of(containerd), one);
        assert_eq!(of(json!({})), Ok(None));
    }

    #[test]
    fn a_rate_and_its_burst_come_together() {
        for (given, missing) in [
            ("ingressRate", "ingressBurst"),
            ("ingressBurst", "ingressRate"),
            ("egressRate", "egressBurst"),
            ("egressBurst", "egressRate"),
        ] {
            let message = of(json!({ given: 1 })).unwrap_err().to_json("1.0.0")["msg"].to_string();
            assert!(message.contains(&format!("runtimeConfig.bandwidth.{missing}: missing")), "{message}");
        }
    }
}
