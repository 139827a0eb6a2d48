// The kernels, compiled for this CPU, against the same in double precision. Prints what differs; the exit status says whether anything does.
#include "emulate.h"

#include "../kernels.cu"

#include <cstdio>
#include <random>
#include <string>

static int failures;

using numbers = std::vector<double>;

// Numbers of one dtype, in memory as the kernels read it, and their values.
template <typename T> struct tensor {
  std::vector<T> stored;
  numbers values;
  const T *data() const { return stored.empty() ? nullptr : stored.data(); }
};

static std::mt19937 generator(7);

template <typename T> tensor<T> random_tensor(size_t count, double scale = 1, double mean = 0) {
  std::normal_distribution<double> distribution(mean, scale);
  tensor<T> t;
  for (size_t i = 0; i < count; i++) {
    T x;
    from_float((float)distribution(generator), x);
    t.stored.push_back(x);
    t.values.push_back(to_float(x));
  }
  return t;
}

static double at(const numbers &values, size_t i) { return values.empty() ? 0 : values[i]; }

template <typename T> constexpr double rounding() {
  return sizeof(T) == 4 ? 2e-6 : std::is_same_v<T, half> ? 5e-4 : 4e-3;
}

template <typename T> void compare(const std::string &what, const std::vector<T> &got, const numbers &want) {
  for (size_t i = 0; i < want.size(); i++) {
    double g = to_float(got[i]), w = want[i];
    if (!(std::abs(g - w) <= rounding<T>() * std::max(1.0, std::abs(w)))) {
      printf("%s: number %zu is %.9g, not %.9g\n", what.c_str(), i, g, w);
      failures++;
      return;
    }
  }
}

static double reference(int act, double x) {
  switch (act) {
  case 1:
    return x / 2 * (1 + std::erf(x / std::sqrt(2)));
  case 2:
    return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  case 3:
    return x / (1 + std::exp(-1.702 * x));
  case 4:
    return std::max(x, 0.0);
  case 5:
    return x / (1 + std::exp(-x));
  case 6:
    return std::tanh(x);
  }
  return x;
}

static unsigned blocks_of(size_t count, unsigned threads) { return (unsigned)((count + threads - 1) / threads); }

template <typename T, int N> void activations(const std::string &name, int width) {
  const int rows = 3;
  for (int act = 0; act <= 6; act++)
    for (bool biased : {false, true}) {
      const std::string what = name + ", activation " + std::to_string(act) + (biased ? ", bias" : "");
      auto x = random_tensor<T>(rows * width, 3);
      auto bias = random_tensor<T>(biased ? width : 0);
      std::vector<T> y(rows * width);
      numbers want;
      for (int i = 0; i < rows * width; i++)
        want.push_back(reference(act, x.values[i] + at(bias.values, i % width)));
      const unsigned portions = rows * width / N;
      launch(blocks_of(portions, 32), 32,
             [&] { bias_activation<T, N>(x.data(), bias.data(), y.data(), portions, width, act); });
      compare("BiasActivation " + what, y, want);

      const int inner = width / 2;
      if (inner % N != 0)
        continue;
      for (int gate_first : {0, 1}) {
        std::vector<T> z(rows * inner);
        want.clear();
        for (int r = 0; r < rows; r++)
          for (int c = 0; c < inner; c++) {
            const int gate = c + (gate_first ? 0 : inner), up = c + (gate_first ? inner : 0);
            want.push_back(reference(act, x.values[r * width + gate] + at(bias.values, gate)) *
                           (x.values[r * width + up] + at(bias.values, up)));
          }
        const unsigned count = rows * inner / N;
        launch(blocks_of(count, 32), 32,
               [&] { gated_activation<T, N>(x.data(), bias.data(), z.data(), count, inner, act, gate_first); });
        compare("GatedActivation " + what + ", gate first " + std::to_string(gate_first), z, want);
      }
    }
}

template <typename T, int N> void norms(const std::string &name, int width, unsigned threads) {
  const int rows = 2;
  for (int rms : {0, 1})
    for (int with :
         {0, 1, 2, 3}) { // nothing; all; a residual that y takes the place of, a sum that x does; one plus weight
      const std::string what = "ResidualNorm " + name + " width " + std::to_string(width) + " rms " +
                               std::to_string(rms) + " with " + std::to_string(with);
      auto x = random_tensor<T>(rows * width, 2, 1);
      auto residual = random_tensor<T>(with > 0 ? rows * width : 0, 1, -3);
      auto x_bias = random_tensor<T>(with == 1 ? width : 0), bias = random_tensor<T>(with == 1 ? width : 0);
      auto weight = random_tensor<T>(with != 0 ? width : 0, 0.5, 1);
      numbers want, sums;
      for (int r = 0; r < rows; r++) {
        double mean = 0, squares = 0;
        numbers row;
        for (int c = 0; c < width; c++)
          row.push_back(x.values[r * width + c] + at(x_bias.values, c) + at(residual.values, r * width + c));
        sums.insert(sums.end(), row.begin(), row.end());
        for (double v : row)
          mean += rms ? 0 : v / width;
        for (double v : row)
          squares += (v - mean) * (v - mean) / width;
        for (int c = 0; c < width; c++) {
          const double w = weight.values.empty() ? 1 : (with == 3 ? 1 : 0) + weight.values[c];
          want.push_back((row[c] - mean) / std::sqrt(squares + 1e-5) * w + at(bias.values, c));
        }
      }
      std::vector<T> y(rows * width), sum(rows * width);
      T *to = with == 2 ? residual.stored.data() : y.data(), *sum_to = with == 0   ? nullptr
                                                                       : with == 2 ? x.stored.data()
                                                                                   : sum.data();
      launch(rows, threads, [&] {
        residual_norm<T, N>(x.data(), x_bias.data(), residual.data(), weight.data(), bias.data(), to, sum_to, width,
                            1e-5f, rms, with == 3);
      });
      compare(what, with == 2 ? residual.stored : y, want);
      if (with != 0)
        compare(what + ", sum", with == 2 ? x.stored : sum, sums);
    }
}

template <typename T, int N> void pools(const std::string &name, int width) {
  const std::vector<int> cu = {0, 1, 1, 14, 17}, skip = {0, 3, 2, 3};
  const int sequences = skip.size();
  for (int pooling = 0; pooling <= 5; pooling++)
    for (bool skips : {false, true})
      for (bool spoilt : {false, true}) {
        const std::string what = "Pool " + name + " width " + std::to_string(width) + " kind " +
                                 std::to_string(pooling) + (skips ? ", skips" : "");
        auto x = random_tensor<T>(17 * width, 1, -2);
        if (spoilt) {
          from_float(INFINITY, x.stored[13 * width]);
          x.values[13 * width] = INFINITY;
        }
        numbers want;
        for (int s = 0; s < sequences; s++)
          for (int c = 0; c < width; c++) {
            const int length = cu[s + 1] - cu[s], from = skips && pooling > 1 ? skip[s] : 0;
            double sum = 0, most = -INFINITY, weights = 0;
            for (int t = from; t < length; t++) {
              const double v = x.values[(cu[s] + t) * width + c], weight = pooling == 5 ? t + 1 : 1;
              sum += v * weight;
              weights += weight;
              most = std::max(most, v);
            }
            const double divisor = pooling == 4 ? std::sqrt(weights) : weights;
            want.push_back(length <= from ? 0
                           : pooling == 0 ? x.values[cu[s] * width + c]
                           : pooling == 1 ? x.values[(cu[s + 1] - 1) * width + c]
                           : pooling == 3 ? most
                                          : sum / divisor);
          }
        std::vector<float> y(sequences * width);
        launch(sequences * blocks_of(width, 32 * N), 256,
               [&] { pool<T, N>(x.data(), cu.data(), skips ? skip.data() : nullptr, y.data(), width, pooling); });
        for (size_t i = 0; i < want.size(); i++)
          if (std::isinf(want[i]) && want[i] == y[i])
            want[i] = y[i] = 0;
        compare(what, y, want);
      }
}

template <typename T> void heads(const std::string &name, int dim, int rope_dim, int query_heads, int key_heads) {
  constexpr int rows = 2, positions = 40;
  const int count = query_heads + 2 * key_heads;
  const std::vector<int> position = {7, 39};
  auto cos_table = random_tensor<float>(positions * rope_dim / 2),
       sin_table = random_tensor<float>(positions * rope_dim / 2);
  int lanes = 1;
  while (8 * lanes < dim)
    lanes *= 2;
  for (int norm : {0, 1, 2})
    for (int rope : {0, 1, 2}) {
      const std::string what = "Heads " + name + " of " + std::to_string(dim) + ", turning " +
                               std::to_string(rope_dim) + ", norm " + std::to_string(norm) + ", rope " +
                               std::to_string(rope);
      auto x = random_tensor<T>(rows * count * dim, 2);
      auto bias = random_tensor<T>(rope == 1 ? 0 : count * dim);
      auto q_weight = random_tensor<T>(norm ? dim : 0, 0.5, 1), k_weight = random_tensor<T>(norm ? dim : 0, 0.5, 1);
      auto q_bias = random_tensor<T>(norm == 1 ? dim : 0), k_bias = random_tensor<T>(norm == 1 ? dim : 0);
      numbers want[3];
      for (int r = 0; r < rows; r++)
        for (int h = 0; h < count; h++) {
          const int part = h < query_heads ? 0 : h < query_heads + key_heads ? 1 : 2;
          numbers v;
          double mean = 0, squares = 0;
          for (int i = 0; i < dim; i++)
            v.push_back(x.values[(r * count + h) * dim + i] + at(bias.values, h * dim + i));
          if (norm && part < 2) {
            for (double n : v)
              mean += norm == 1 ? n / dim : 0;
            for (double n : v)
              squares += (n - mean) * (n - mean) / dim;
            for (int i = 0; i < dim; i++) {
              const double w = (part == 0 ? q_weight : k_weight).values[i] + (norm == 2 ? 1 : 0);
              v[i] = (v[i] - mean) / std::sqrt(squares + 1e-6) * w + at((part == 0 ? q_bias : k_bias).values, i);
            }
          }
          numbers turned = v;
          for (int i = 0; rope && part < 2 && i < rope_dim / 2; i++) {
            const double c = cos_table.values[position[r] * rope_dim / 2 + i],
                         s = sin_table.values[position[r] * rope_dim / 2 + i];
            const int first = rope == 1 ? i : 2 * i, second = rope == 1 ? i + rope_dim / 2 : 2 * i + 1;
            turned[first] = v[first] * c - v[second] * s;
            turned[second] = v[second] * c + v[first] * s;
          }
          want[part].insert(want[part].end(), turned.begin(), turned.end());
        }
      for (int groups : {1, 2, count}) { // a head each, or several
        const std::string which = what + ", groups " + std::to_string(groups);
        std::vector<T> q(want[0].size()), k(want[1].size()), v(want[2].size());
        const auto compute = [&](const int *slots, unsigned places) {
          launch(blocks_of(rows * groups * lanes, 64), 64, [&] {
            heads_of<T>(x.data(), bias.data(), q_weight.data(), k_weight.data(), q_bias.data(), k_bias.data(),
                        cos_table.data(), sin_table.data(), position.data(), slots, places, q.data(), k.data(),
                        v.data(), rows, groups, lanes, query_heads, key_heads, dim, norm, 1e-6f, norm == 2, rope,
                        rope_dim);
          });
        };
        compute(nullptr, rows);
        compare(which + ", query", q, want[0]);
        compare(which + ", key", k, want[1]);
        compare(which + ", value", v, want[2]);
        const int row = key_heads * dim, places = 5; // of a cache
        for (int second : {1, -1, 5}) {              // the last two are outside
          const int slots[rows] = {3, second};
          q.assign(q.size(), T());
          for (std::vector<T> *cache : {&k, &v})
            cache->assign((places + 1) * row, T());
          compute(slots, places);
          for (int part : {1, 2}) {
            numbers cache((places + 1) * row);
            std::copy_n(want[part].begin(), row, cache.begin() + 3 * row);
            if (second == 1)
              std::copy_n(want[part].begin() + row, row, cache.begin() + row);
            compare(which + (part == 1 ? ", keys of a cache" : ", values of a cache"), part == 1 ? k : v, cache);
          }
          compare(which + ", query beside a cache", q, want[0]);
        }
      }
    }
}

template <typename T> void all(const std::string &name) {
  constexpr int wide = 16 / sizeof(T);
  activations<T, 1>(name + " narrow", 14);
  activations<T, wide>(name + " wide", 48);
  norms<T, 1>(name + " narrow", 7, 32);
  norms<T, 1>(name + " narrow", 100, 32);
  norms<T, wide>(name + " wide", 8, 32);
  norms<T, wide>(name + " wide", 48, 32);
  norms<T, wide>(name + " wide", 776, 96);
  norms<T, wide>(name + " wide", 776, 64);
  pools<T, 1>(name + " narrow", 35);
  pools<T, wide>(name + " wide", 40);
  heads<T>(name, 8, 8, 2, 2);
  heads<T>(name, 64, 32, 3, 1);
  heads<T>(name, 128, 128, 2, 2);
  heads<T>(name, 256, 64, 2, 1);
  heads<T>(name, 24, 24, 1, 1);
}

int main() {
  all<float>("float32");
  all<half>("float16");
  all<bfloat>("bfloat16");
  if (failures == 0)
    printf("ok\n");
  return failures != 0;
}
