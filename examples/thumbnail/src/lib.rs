//! A PNG or JPEG in, a small PNG out: its longest side is the label `size`, or 128 pixels. A picture that is
//! smaller stays as it is.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use wasmqtt_guest::{Context, Error, Output, info, progress, task};

task!(run);

fn run(ctx: &Context, input: Vec<u8>) -> Result<Output, Error> {
    let size = match ctx.label("size") {
        Some(size) => size
            .parse()
            .map_err(|_| Error::reject("the label size is a number of pixels"))?,
        None => 128,
    };

    progress(0, 3, "decoding");
    let picture = decode(&input).map_err(Error::reject)?;
    progress(1, 3, "resizing");
    let small = shrink(&picture, size);
    progress(2, 3, "encoding");
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png)?;
    progress(3, 3, "done");

    info!(
        "{}x{} to {}x{}",
        picture.width(),
        picture.height(),
        small.width(),
        small.height()
    );
    Ok(Output::new(png.into_inner(), "image/png"))
}

/// Cameras store the picture as the sensor saw it, and beside it how the camera was held.
fn decode(input: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut decoder = ImageReader::new(Cursor::new(input))
        .with_guessed_format()?
        .into_decoder()?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn shrink(picture: &DynamicImage, size: u32) -> DynamicImage {
    if picture.width().max(picture.height()) <= size {
        return picture.clone();
    }
    picture.thumbnail(size, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHOTO: &[u8] = include_bytes!("../input.jpg");

    #[test]
    fn the_longest_side_is_the_size() {
        let output = run(&Context::default(), PHOTO.to_vec()).expect("the sample is a photo");
        assert_eq!(output.content_type.as_deref(), Some("image/png"));
        let png = image::load_from_memory_with_format(&output.data, ImageFormat::Png);
        let png = png.expect("the output is a PNG");
        assert_eq!((png.width(), png.height()), (128, 96));
    }

    #[test]
    fn a_small_picture_stays_as_it_is() {
        assert_eq!(shrink(&DynamicImage::new_rgb8(30, 20), 128).width(), 30);
    }

    #[test]
    fn what_is_no_picture_is_rejected() {
        let error = run(&Context::default(), b"GIF?".to_vec()).expect_err("it is no picture");
        assert!(matches!(error, Error::Reject(_)), "{error}");
    }
}
