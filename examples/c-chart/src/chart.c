// Lines of `label,value` in, a bar chart as a PNG out. The picture is made by two public-domain libraries in ../vendor/:
// stb_image_write writes it, stb_easy_font draws the letters.

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO // to memory, not to files
#define STBIW_ASSERT(x) ((void)0)
#include "stb_easy_font.h"
#include "stb_image_write.h"

enum { WIDTH = 480, HEIGHT = 240, MARGIN = 24, FOOT = 36, MAX_BARS = 32, LABEL = 24, COMPONENTS = 3 };

typedef struct {
    char label[LABEL];
    double value;
} bar_t;

typedef unsigned char color_t[COMPONENTS];

static const color_t BLUE = {66, 114, 196}, RED = {200, 70, 60}, BLACK = {40, 40, 40};

static unsigned char pixels[HEIGHT * WIDTH * COMPONENTS];

// Fills the pixels from (x0, y0) to before (x1, y1), as far as they are in the picture.
static void fill(int x0, int y0, int x1, int y1, const color_t color) {
    for (int y = y0 < 0 ? 0 : y0; y < y1 && y < HEIGHT; y++)
        for (int x = x0 < 0 ? 0 : x0; x < x1 && x < WIDTH; x++)
            memcpy(&pixels[(y * WIDTH + x) * COMPONENTS], color, COMPONENTS);
}

// Writes a text with its middle at `middle` and its top at `y`. The font comes as rectangles of four corners each.
static void text(int middle, int y, char *words) {
    static struct {
        float x, y, z;
        unsigned char color[4];
    } corners[LABEL * 4 * 16];
    int x = middle - stb_easy_font_width(words) / 2;
    int count = stb_easy_font_print((float)x, (float)y, words, NULL, corners, sizeof corners);
    for (int i = 0; i < count * 4; i += 4)
        fill((int)corners[i].x, (int)corners[i].y, (int)corners[i + 2].x, (int)corners[i + 2].y, BLACK);
}

// Reads one line. False when it is none: `why` then says what is wrong with it.
static bool parse(const char *line, size_t length, bar_t *bar, const char **why) {
    const char *comma = memchr(line, ',', length);
    if (!comma) return *why = "no comma", false;
    size_t label = (size_t)(comma - line);
    if (label >= LABEL) return *why = "the label is longer than 23 bytes", false;
    memcpy(bar->label, line, label);
    bar->label[label] = 0;
    for (size_t i = 0; i < label; i++)
        if (bar->label[i] < ' ' || bar->label[i] > '~') return *why = "the font has ASCII only", false;

    char number[32];
    size_t digits = length - label - 1;
    if (digits == 0 || digits >= sizeof number) return *why = "no number after the comma", false;
    memcpy(number, comma + 1, digits);
    number[digits] = 0;
    char *end;
    bar->value = strtod(number, &end);
    if (*end || !(bar->value >= -1e9 && bar->value <= 1e9)) return *why = "no number from -1e9 to 1e9 after the comma", false;
    return true;
}

// Where a value is, from the top.
static int height_of(double value, double low, double high) {
    return MARGIN + (int)((high - value) / (high - low) * (HEIGHT - MARGIN - FOOT));
}

static void draw(const bar_t *bars, int count) {
    double low = 0, high = 0;
    for (int i = 0; i < count; i++) {
        if (bars[i].value < low) low = bars[i].value;
        if (bars[i].value > high) high = bars[i].value;
    }
    if (low == high) high = 1;

    memset(pixels, 255, sizeof pixels);
    int zero = height_of(0, low, high), step = (WIDTH - 2 * MARGIN) / count;
    for (int i = 0; i < count; i++) {
        int left = MARGIN + i * step, middle = left + step / 2, tip = height_of(bars[i].value, low, high);
        bool positive = tip <= zero;
        fill(left + step / 8, positive ? tip : zero, left + step - step / 8, positive ? zero : tip, positive ? BLUE : RED);
        char words[LABEL];
        snprintf(words, sizeof words, "%g", bars[i].value);
        text(middle, positive ? tip - 10 : tip + 4, words);
        memcpy(words, bars[i].label, LABEL);
        text(middle, HEIGHT - 12, words);
    }
    fill(MARGIN, zero, WIDTH - MARGIN, zero + 1, BLACK);
}

static bool reject(task_error_t *error, size_t line, const char *why) {
    char message[96];
    snprintf(message, sizeof message, "line %zu: %s", line, why);
    error->tag = WASMQTT_TASK_TYPES_ERROR_REJECT;
    task_string_dup(&error->val.reject, message);
    return false;
}

bool exports_task_run(task_context_t *task, task_list_u8_t *input, task_output_t *output, task_error_t *error) {
    (void)task;
    static bar_t bars[MAX_BARS];
    int count = 0;
    size_t number = 1;
    const char *at = (const char *)input->ptr, *end = at + input->len;
    for (; at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline ? newline : end;
        const char *why;
        if (stop > at) {
            if (count == MAX_BARS) return reject(error, number, "more than 32 bars");
            if (!parse(at, (size_t)(stop - at), &bars[count], &why)) return reject(error, number, why);
            count++;
        }
        at = stop + 1;
    }
    if (count == 0) return reject(error, number, "nothing to draw");

    draw(bars, count);
    // Areas of one color are smallest as they are; trying every filter out for every row takes almost three times the fuel.
    stbi_write_force_png_filter = 0;
    int length;
    unsigned char *png = stbi_write_png_to_mem(pixels, WIDTH * COMPONENTS, WIDTH, HEIGHT, COMPONENTS, &length);
    if (!png) abort();
    output->data.ptr = png;
    output->data.len = (size_t)length;
    output->content_type.is_some = true;
    task_string_dup(&output->content_type.val, "image/png");
    return true;
}
