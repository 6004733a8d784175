//! Values of a user's query that have no number or text of their own in the answer: exact numbers and times, as text.

/// The server's binary form of NUMERIC: digits in base 10,000.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign, scale) = (words.next()?, words.next()? as i16, words.next()?, words.next()?);
    match sign {
        0xC000 => return Some("NaN".into()),
        0xD000 => return Some("Infinity".into()),
        0xF000 => return Some("-Infinity".into()),
        _ => {}
    }
    let digits: Vec<u16> = words.collect();
    if digits.len() != usize::from(count) {
        return None;
    }
    let group = |at: i32| -> u16 { usize::try_from(i32::from(weight) - at).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0) };
    let mut text = String::new();
    for at in (0..=i32::from(weight).max(0)).rev() {
        let digit = group(at);
        if text.is_empty() { text.push_str(&digit.to_string()) } else { text.push_str(&format!("{digit:04}")) }
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut at = -1;
        while fraction.len() < usize::from(scale) {
            fraction.push_str(&format!("{:04}", group(at)));
            at -= 1;
        }
        fraction.truncate(scale.into());
        text.push('.');
        text.push_str(&fraction);
    }
    Some(if sign == 0x4000 { format!("-{text}") } else { text })
}

/// Days since 2000-01-01 as a civil date.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 10_957 + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

pub(super) fn date(days: i64) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Microseconds since 2000-01-01 00:00.
pub(super) fn timestamp(us: i64, zone: bool) -> String {
    match us {
        i64::MAX => return "infinity".into(),
        i64::MIN => return "-infinity".into(),
        _ => {}
    }
    let (days, rest) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    let zone = if zone { "+00:00" } else { "" };
    format!("{}T{:02}:{:02}:{:02}{fraction}{zone}", date(days), seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_the_server_writes_them() {
        let binary = |weight: i16, sign: u16, scale: u16, digits: &[u16]| -> Vec<u8> {
            [digits.len() as u16, weight as u16, sign, scale].iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
        };
        assert_eq!(text(&binary(0, 0, 2, &[12, 3400])).as_deref(), Some("12.34"));
        assert_eq!(text(&binary(1, 0x4000, 0, &[1, 5])).as_deref(), Some("-10005"));
        assert_eq!(text(&binary(-1, 0, 4, &[5])).as_deref(), Some("0.0005"));
        assert_eq!(text(&binary(1, 0, 0, &[3])).as_deref(), Some("30000"));
        assert_eq!(text(&binary(0, 0, 3, &[])).as_deref(), Some("0.000"));
        assert_eq!(text(&[0, 1, 0, 0]), None);
    }

    #[test]
    fn times() {
        assert_eq!(timestamp(0, true), "2000-01-01T00:00:00+00:00");
        assert_eq!(timestamp(-1, false), "1999-12-31T23:59:59.999999");
        assert_eq!(date(8825), "2024-02-29");
    }
}
