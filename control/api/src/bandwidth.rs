//! How much pods may send and receive.

use std::num::NonZeroU64;

use shunt_dataplane::spec::{Bandwidth, Rate};

use crate::{FieldError, v1};

impl TryFrom<v1::Bandwidth> for Bandwidth {
    type Error = FieldError;

    fn try_from(bandwidth: v1::Bandwidth) -> Result<Self, FieldError> {
        let rate = |field: &str, rate: Option<v1::Rate>| {
            rate.map(|rate| Rate::try_from(rate).map_err(|e| e.within(field))).transpose()
        };
        Ok(Bandwidth { ingress: rate("ingress", bandwidth.ingress)?, egress: rate("egress", bandwidth.egress)? })
    }
}

impl From<&Bandwidth> for v1::Bandwidth {
    fn from(bandwidth: &Bandwidth) -> Self {
        v1::Bandwidth { ingress: bandwidth.ingress.map(Into::into), egress: bandwidth.egress.map(Into::into) }
    }
}

impl TryFrom<v1::Rate> for Rate {
    type Error = FieldError;

    fn try_from(rate: v1::Rate) -> Result<Self, FieldError> {
        let refuse = |field: &str, problem: &str| FieldError::new(field, problem);
        let bits_per_second = NonZeroU64::new(rate.bits_per_second)
            .ok_or_else(|| refuse("bits_per_second", "0 lets nothing through; leave the limit out, or give a rate"))?;
        if rate.burst_bits == 0 {
            return Err(refuse("burst_bits", "0 is no burst; give some frames' bits"));
        }
        Ok(Rate { bits_per_second, burst_bits: rate.burst_bits })
    }
}

impl From<Rate> for v1::Rate {
    fn from(rate: Rate) -> Self {
        v1::Rate { bits_per_second: rate.bits_per_second.get(), burst_bits: rate.burst_bits }
    }
}
