/// Where the code points of a text begin: the library counts them, and Rust slices bytes.
pub struct CodePoints<'a> {
    text: &'a str,
    places: Vec<usize>,
}

impl<'a> CodePoints<'a> {
    pub fn new(text: &'a str) -> CodePoints<'a> {
        let mut places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        places.push(text.len());
        CodePoints { text, places }
    }

    /// The code points start .. end; `None` where the text has no such part.
    pub fn part(&self, start: u32, end: u32) -> Option<&'a str> {
        let (first, last) = (self.places.get(start as usize)?, self.places.get(end as usize)?);
        self.text.get(*first..*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_in_code_points() {
        let places = CodePoints::new("Ünï🙂!");
        for (start, end, part) in [
            (0, 1, Some("Ü")),
            (1, 4, Some("nï🙂")),
            (4, 5, Some("!")),
            (5, 5, Some("")),
            (4, 6, None),
            (3, 2, None),
        ] {
            assert_eq!(places.part(start, end), part, "{start}..{end}");
        }
    }
}
