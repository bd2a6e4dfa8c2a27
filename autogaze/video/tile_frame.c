/* One 8-bit frame resized by antialiased bilinear interpolation, and cut into tiles.
 *
 * The same bytes as PyTorch's 8-bit kernel: rows first, then columns, with whole weights of so many
 * bits and each pass rounded to bytes. All sums are whole numbers below 2^24, so that they are exact
 * in floats. A resized frame is never whole in memory: only the few rows that a row of tiles is made
 * of next are.
 *
 * Threads are those of the caller's OpenMP, whose GOMP_parallel is handed in.
 */
#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define MOST_TAPS 8
#define W 16 /* lanes of a vector; the compiler splits it where the processor has fewer */

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));

typedef void Task(void *);
typedef void Parallel(Task *, void *, unsigned, unsigned);

typedef struct {
    int32_t size, source, taps; /* results, of so many pixels; most pixels of one result */
    const int32_t *first;       /* [size], the first pixel of each */
    const float *weights;       /* [taps][size], whole numbers */
    const int32_t *lanes;       /* [taps][size], pixels from the first of W results on */
    float unit;                 /* 1 / what the weights of a result sum up to */
} Axis;

typedef struct {
    Parallel *parallel;
    int32_t threads, side, rows, columns; /* of the tiles, in pixels; of tiles */
    const Axis *across, *down;
    const uint8_t *pixels; /* [down->source][across->source][3] */
    uint8_t *tiles;        /* tiles, [3][side][side] */
    int64_t tile_step;
    uint8_t *scratch;      /* [threads][thread_step] */
    int64_t thread_step;
} Work;

typedef struct {
    const Work *work;
    int32_t next, thread;
} Shared;

static inline vec floats_of(const uint8_t *from) {
#ifdef __AVX512F__ /* where GCC would take them one by one */
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from)));
#else
    return __builtin_convertvector(*(bytes *)from, vec);
#endif
}

static inline bytes rounded(vec sum, float unit) {
    const ivec whole = __builtin_convertvector(sum * unit + 0.5f, ivec);
    const ivec over = whole > 255;
    return __builtin_convertvector((whole & ~over) | (over & 255), bytes);
}

static inline uint8_t rounded_one(float sum, float unit) {
    const int32_t whole = (int32_t)(sum * unit + 0.5f);
    return whole > 255 ? 255 : (uint8_t)whole;
}

/* A row of the frame, resized: three planes, `size` bytes each. */
static void resize_row(const Axis *axis, const uint8_t *pixels, float *plane, int64_t step,
                       uint8_t *out) {
    const int size = axis->size, whole = size / W * W; /* of vectors */
    (void)whole;
    float *green = plane + step, *blue = green + step;
    for (int x = 0; x < axis->source; x++) {
        plane[x] = pixels[3 * x];
        green[x] = pixels[3 * x + 1];
        blue[x] = pixels[3 * x + 2];
    }
    for (int c = 0; c < 3; c++, out += size, plane += step) {
        int x = 0;
#if defined(__AVX512F__) && !defined(__clang__) /* which has no such shuffle */
        for (; x < whole; x += W) {
            const float *from = plane + axis->first[x];
            const vec near = *(vec *)from, far = *(vec *)(from + W);
            vec sum = {0};
            for (int j = 0; j < axis->taps; j++) {
                const ivec lanes = *(ivec *)(axis->lanes + j * size + x);
                sum += __builtin_shuffle(near, far, lanes) * *(vec *)(axis->weights + j * size + x);
            }
            *(bytes *)(out + x) = rounded(sum, axis->unit);
        }
#endif
        for (; x < size; x++) {
            float sum = 0;
            for (int j = 0; j < axis->taps; j++)
                sum += plane[axis->first[x] + j] * axis->weights[j * size + x];
            out[x] = rounded_one(sum, axis->unit);
        }
    }
}

/* A row of a tile, out of resized rows of the frame. */
static void mix_rows(const Axis *axis, int y, const uint8_t *const *rows, int side, uint8_t *out) {
    int x = 0;
    for (; x + W <= side; x += W) {
        vec sum = {0};
        for (int j = 0; j < axis->taps; j++)
            sum += floats_of(rows[j] + x) * axis->weights[j * axis->size + y];
        *(bytes *)(out + x) = rounded(sum, axis->unit);
    }
    for (; x < side; x++) {
        float sum = 0;
        for (int j = 0; j < axis->taps; j++) sum += rows[j][x] * axis->weights[j * axis->size + y];
        out[x] = rounded_one(sum, axis->unit);
    }
}

static void cut_row_of_tiles(const Work *work, int row, uint8_t *scratch) {
    const Axis *across = work->across, *down = work->down;
    const int side = work->side, width = across->size, taps = down->taps;
    const int64_t held = 3 * (int64_t)width;
    float *plane = (float *)scratch;
    const int64_t step = across->source + 2 * W + MOST_TAPS; /* between planes: a little more */
    uint8_t *ring = scratch + 3 * step * sizeof *plane;
    const uint8_t *rows[MOST_TAPS];
    int made = down->first[row * side];
    for (int y = 0; y < side; y++) {
        const int at = row * side + y, first = down->first[at];
        const int past = first + taps < down->source ? first + taps : down->source;
        if (made < first) made = first;
        for (; made < past; made++)
            resize_row(across, work->pixels + (int64_t)made * across->source * 3, plane, step,
                       ring + made % taps * held);
        for (int c = 0; c < 3; c++)
            for (int column = 0; column < work->columns; column++) {
                for (int j = 0; j < taps; j++) /* behind the last row weights are 0 */
                    rows[j] = ring + (first + j < past ? first + j : first) % taps * held +
                              (int64_t)c * width + column * side;
                uint8_t *tile =
                    work->tiles + (row * (int64_t)work->columns + column) * work->tile_step;
                mix_rows(down, at, rows, side, tile + ((int64_t)c * side + y) * side);
            }
    }
}

static void cut_some(void *data) {
    Shared *shared = data;
    const Work *work = shared->work;
    const int thread = __atomic_fetch_add(&shared->thread, 1, __ATOMIC_RELAXED);
    int row;
    while ((row = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED)) < work->rows)
        cut_row_of_tiles(work, row, work->scratch + thread * work->thread_step);
}

void cut(const Work *work) {
    Shared shared = {work, 0, 0};
    const int threads = work->rows < work->threads ? work->rows : work->threads;
    if (threads > 1) work->parallel(cut_some, &shared, (unsigned)threads, 0);
    else cut_some(&shared);
}
