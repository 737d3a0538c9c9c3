//! Amounts: whole numbers everywhere, decimal strings only at the borders (design §7).
//!
//! A `count` slot is in micro-units (one core is 1 000 000), a `bytes` slot in bytes. Texts are read
//! exactly: what cannot be said without rounding is refused, never rounded.

/// Micro-units of one whole device.
pub const ONE: u64 = 1_000_000;

/// Decimals that a micro-unit has room for.
const COUNT_DECIMALS: usize = 6;

/// Decimals that are read of a size. With the largest unit (2⁵⁰) the arithmetic stays below 2¹²⁸, and
/// no text that [`format_bytes`] prints has more.
const BYTES_DECIMALS: usize = 20;

/// Units of a size, largest first: letter and power of two.
const UNITS: [(char, u32); 5] = [('p', 50), ('t', 40), ('g', 30), ('m', 20), ('k', 10)];

/// Why a text is not an amount; one sentence that names the text and gives an example.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}; give {example}")]
pub struct ParseAmountError {
    text: String,
    problem: &'static str,
    example: &'static str,
}

/// Reads a number of devices as micro-units: `1.5` is 1 500 000.
///
/// # Errors
/// When it is not a plain decimal number, has more than six decimals, or is above 18 446 744 073 709.
pub fn parse_count(text: &str) -> Result<u64, ParseAmountError> {
    let refuse = |problem| refusal(text, problem, "a number such as 2 or 0.5");
    let (whole, decimals) = split_decimal(text).ok_or_else(|| refuse("is not a number"))?;
    if decimals.len() > COUNT_DECIMALS {
        return Err(refuse("has more than six decimals"));
    }
    scale(whole, decimals, u128::from(ONE)).ok_or_else(|| refuse("is too large"))?.map_err(refuse)
}

/// Prints micro-units as the shortest decimal number: 1 500 000 is `1.5`.
#[must_use]
pub fn format_count(amount: u64) -> String {
    let (whole, rest) = (amount / ONE, amount % ONE);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{}", format!("{rest:06}").trim_end_matches('0'))
}

/// Reads a size in bytes: a decimal number and, if wanted, a unit `k`, `m`, `g`, `t` or `p` (powers of
/// 1024, in either case, also as `kb`, `ki` or `KiB`), or `b`.
///
/// # Errors
/// When it is not such a text, is no whole number of bytes, or is above 2⁶⁴ − 1.
pub fn parse_bytes(text: &str) -> Result<u64, ParseAmountError> {
    let refuse = |problem| refusal(text, problem, "a size such as 512m, 1.5g or 1024");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, decimals) = split_decimal(number).ok_or_else(|| refuse("is not a size"))?;
    let shift = unit(suffix).ok_or_else(|| refuse("is not a size"))?;
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > BYTES_DECIMALS {
        return Err(refuse("is not a whole number of bytes"));
    }
    scale(whole, decimals, 1_u128 << shift).ok_or_else(|| refuse("is too large"))?.map_err(refuse)
}

/// Prints bytes in the shortest exact form: `4g`, `1.5g`, `512m`, `1025`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let mut best = bytes.to_string();
    // From small to large units, so that of two equally short forms the larger unit wins.
    for (letter, shift) in UNITS.into_iter().rev() {
        if bytes >> shift == 0 {
            break;
        }
        if let Some(text) = in_unit(bytes, shift, letter)
            && text.len() <= best.len()
        {
            best = text;
        }
    }
    best
}

fn refusal(text: &str, problem: &'static str, example: &'static str) -> ParseAmountError {
    ParseAmountError { text: text.chars().take(80).collect(), problem, example }
}

/// `12.50` as (`12`, `50`), `12` as (`12`, ``); digits on both sides of a point, nothing else.
fn split_decimal(text: &str) -> Option<(&str, &str)> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, decimals)) => (digits(whole) && digits(decimals)).then_some((whole, decimals)),
        None => digits(text).then_some((text, "")),
    }
}

/// `whole.decimals` times `unit`. None: too large; an inner error: not whole.
fn scale(whole: &str, decimals: &str, unit: u128) -> Option<Result<u64, &'static str>> {
    // A text of digits fails to parse only by its size.
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(unit)?;
    let part = if decimals.is_empty() { 0 } else { decimals.parse::<u128>().ok()? };
    let divisor = 10_u128.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let part = part.checked_mul(unit)?;
    if part % divisor != 0 {
        return Some(Err("is not a whole number of bytes"));
    }
    u64::try_from(whole.checked_add(part / divisor)?).ok().map(Ok)
}

/// The power of two that a suffix stands for.
fn unit(suffix: &str) -> Option<u32> {
    let suffix = suffix.to_ascii_lowercase();
    if suffix.is_empty() || suffix == "b" {
        return Some(0);
    }
    UNITS.into_iter().find_map(|(letter, shift)| {
        let rest = suffix.strip_prefix(letter)?;
        matches!(rest, "" | "i" | "b" | "ib").then_some(shift)
    })
}

/// `bytes` in units of 2^`shift`, exactly; none where that takes more decimals than are read back.
fn in_unit(bytes: u64, shift: u32, letter: char) -> Option<String> {
    let unit = 1_u64 << shift;
    let mut text = (bytes / unit).to_string();
    let mut rest = u128::from(bytes % unit);
    if rest > 0 {
        text.push('.');
    }
    for _ in 0..BYTES_DECIMALS {
        if rest == 0 {
            break;
        }
        rest *= 10;
        text.push(char::from_digit(u32::try_from(rest >> shift).ok()?, 10)?);
        rest &= u128::from(unit - 1);
    }
    text.push(letter);
    (rest == 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(text: &str) -> Result<u64, String> {
        parse_count(text).map_err(|e| e.to_string())
    }

    fn bytes(text: &str) -> Result<u64, String> {
        parse_bytes(text).map_err(|e| e.to_string())
    }

    #[test]
    fn counts_are_read_exactly() {
        assert_eq!(count("1.5"), Ok(1_500_000));
        assert_eq!(count("0.000001"), Ok(1));
        assert_eq!(count("2"), Ok(2 * ONE));
        assert_eq!(count("0.10"), Ok(100_000));
        assert_eq!(count("18446744073709.551615"), Ok(u64::MAX));
    }

    #[test]
    fn counts_that_are_not_exact_are_refused() {
        assert_eq!(
            count("0.1234567").unwrap_err(),
            "\"0.1234567\" has more than six decimals; give a number such as 2 or 0.5"
        );
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", " 1", "1.2.3", "٣", "NaN"] {
            assert_eq!(
                count(text).unwrap_err(),
                format!("{text:?} is not a number; give a number such as 2 or 0.5")
            );
        }
        assert!(count("18446744073709.551616").unwrap_err().contains("is too large"));
        assert!(count(&"9".repeat(500)).unwrap_err().contains("is too large"));
    }

    #[test]
    fn sizes_are_read_with_any_spelling_of_the_unit() {
        for text in ["64m", "64M", "64mb", "64MiB", "64Mi", "0.0625g", "65536k", "67108864", "67108864b"] {
            assert_eq!(bytes(text), Ok(64 << 20), "{text}");
        }
        assert_eq!(bytes("1.5g"), Ok(3 << 29));
        assert_eq!(bytes("1024"), Ok(1024));
        assert_eq!(bytes("1.000000000000000000000000g"), Ok(1 << 30));
        assert_eq!(bytes("16383p"), Ok(16383 << 50));
        assert_eq!(bytes("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn malformed_sizes_are_refused_with_an_example() {
        assert_eq!(
            bytes("12 apples").unwrap_err(),
            "\"12 apples\" is not a size; give a size such as 512m, 1.5g or 1024"
        );
        for text in ["", "m", "1i", "1ib", "1kk", "1kbk", "1bb", "1e", "-1m", ".5g", "1.g", "1.5.5g", "1é"] {
            assert!(bytes(text).unwrap_err().contains("is not a size"), "{text}");
        }
        for text in ["1.5", "0.3k", "0.00001k", "0.0000000000000000000001p"] {
            assert!(bytes(text).unwrap_err().contains("is not a whole number of bytes"), "{text}");
        }
        for text in ["16384p", "18446744073709551616", "99999999999999999999999999999999999999999999999p"] {
            assert!(bytes(text).unwrap_err().contains("is too large"), "{text}");
        }
    }

    #[test]
    fn amounts_are_printed_in_their_shortest_form() {
        let shown = |amounts: &[u64]| amounts.iter().map(|a| format_bytes(*a)).collect::<Vec<_>>();
        assert_eq!(
            shown(&[0, 1, 1024, 1025, 1536, 512 << 20, 3 << 29, 4 << 30, 1 << 50, u64::MAX]),
            ["0", "1", "1k", "1025", "1.5k", "512m", "1.5g", "4g", "1p", "18446744073709551615"]
        );
        assert_eq!(format_count(1_500_000), "1.5");
        assert_eq!(format_count(0), "0");
        assert_eq!(format_count(1), "0.000001");
        assert_eq!(format_count(64 * ONE), "64");
        assert_eq!(format_count(u64::MAX), "18446744073709.551615");
    }

    proptest! {
        #[test]
        fn printed_counts_are_read_back(amount: u64) {
            prop_assert_eq!(parse_count(&format_count(amount)), Ok(amount));
        }

        #[test]
        fn printed_sizes_are_read_back(bytes: u64, shift in 0_u32..64) {
            for bytes in [bytes, bytes << shift, bytes >> shift] {
                prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
                prop_assert!(format_bytes(bytes).len() <= bytes.to_string().len());
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9.kKmMiIbBgGtTpP ]{0,60}|\\PC{0,30}") {
            let _ = (parse_count(&text), parse_bytes(&text));
        }
    }
}
