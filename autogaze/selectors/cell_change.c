/* How much the cells of 8-bit frames changed: the mean over a cell's pixels of the mean over the
 * channels of |frame - other|, in one pass, where PyTorch writes and reads ten pictures.
 *
 * Results are those of PyTorch's operators bit for bit: every division is done, in the order of
 * finest_cells.py, and sums run over the pixels of a row and then over the rows, fused as in a
 * matrix product.
 *
 * Threads are those of the caller's OpenMP, whose GOMP_parallel is handed in.
 */
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

typedef void Task(void *);
typedef void Parallel(Task *, void *, unsigned, unsigned);

typedef struct {
    Parallel *parallel;
    int32_t threads, side, grid, divided;
    int64_t clips;
    const int32_t *edges;          /* [grid + 1] boundaries of cells, in pixels */
    const float *shares;           /* [grid] 1 / width of a cell */
    const uint8_t *frames, *others; /* [clips][3][side][side] */
    float std[3];                  /* what differences are divided by, if divided */
    float *row;                    /* [threads][side] */
    float *scores;                 /* [clips][grid][grid] */
} Work;

typedef struct {
    const Work *work;
    int64_t next;
    int32_t thread;
} Shared;

/* One row of pixels: the mean over the channels. */
INLINE void change(int32_t side, const uint8_t *a, const uint8_t *b, const float *std, int divided,
                   float *restrict row) {
    const int64_t plane = (int64_t)side * side;
    const float red = std[0], green = std[1], blue = std[2];
    for (int32_t x = 0; x < side; x++) {
        float r = __builtin_fabsf(a[x] / 255.0f - b[x] / 255.0f);
        float g = __builtin_fabsf(a[plane + x] / 255.0f - b[plane + x] / 255.0f);
        float u = __builtin_fabsf(a[2 * plane + x] / 255.0f - b[2 * plane + x] / 255.0f);
        row[x] = (divided ? r / red + g / green + u / blue : r + g + u) / 3.0f;
    }
}

static void clip(const Work *w, int64_t number, float *row) {
    const int32_t side = w->side, grid = w->grid;
    const int64_t first = number * 3 * side * side;
    float *scores = w->scores + number * grid * grid;
    for (int32_t i = 0; i < grid; i++) {
        float *out = scores + i * grid;
        for (int32_t j = 0; j < grid; j++)
            out[j] = 0;
        for (int32_t y = w->edges[i]; y < w->edges[i + 1]; y++) {
            const int64_t place = first + (int64_t)y * side;
            const uint8_t *a = w->frames + place, *b = w->others + place;
            if (w->divided) change(side, a, b, w->std, 1, row);
            else change(side, a, b, w->std, 0, row);
            for (int32_t j = 0; j < grid; j++) {
                float across = 0;
                for (int32_t x = w->edges[j]; x < w->edges[j + 1]; x++)
                    across = __builtin_fmaf(row[x], w->shares[j], across);
                out[j] = __builtin_fmaf(w->shares[i], across, out[j]);
            }
        }
    }
}

static void share(void *data) {
    Shared *shared = data;
    const Work *w = shared->work;
    float *row = w->row + __atomic_fetch_add(&shared->thread, 1, __ATOMIC_RELAXED) * w->side;
    int64_t number;
    while ((number = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED)) < w->clips)
        clip(w, number, row);
}

void cell_change(const Work *work) {
    Shared shared = {work, 0, 0};
    if (work->threads > 1)
        work->parallel(share, &shared, work->threads, 0);
    else
        share(&shared);
}
