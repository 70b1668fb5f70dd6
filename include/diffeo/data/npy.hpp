// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/atomic_file.hpp>
#include <diffeo/data/npy_header.hpp>
#include <diffeo/data/open_file.hpp>
#include <diffeo/data/text.hpp>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// Reader and writer of NumPy's .npy files
/// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

inline constexpr char npy_byte_order = std::endian::native == std::endian::little ? '<' : '>';

/// Returns whether v can be converted to S: without overflow of a floating-point number and without rounding of an
/// integer. Rounding of float64 to float32 is accepted.
template <class S, class T>
bool npy_holds(T v) {
  if constexpr (std::numeric_limits<T>::digits <= std::numeric_limits<S>::digits) {
    return true;
  } else if constexpr (std::is_integral_v<T>) {
    constexpr T limit = T(1) << std::numeric_limits<S>::digits;
    return v <= limit && (std::is_unsigned_v<T> || v >= T(0) - limit);
  } else {
    return !std::isfinite(v) || std::abs(v) <= T(std::numeric_limits<S>::max());
  }
}

/// Returns v with its bytes in reverse order.
template <class T>
T byte_swapped(T v) {
  auto bytes = std::bit_cast<std::array<unsigned char, sizeof(T)>>(v);
  std::reverse(bytes.begin(), bytes.end());
  return std::bit_cast<T>(bytes);
}

/// Shape and layout of the numbers of an .npy file.
struct NpyLayout {
  Index rows = 0, cols = 0;
  std::uint64_t begin = 0;     ///< position of the first number in the file, in bytes
  bool fortran_order = false;  ///< columns one after another
  bool swapped = false;        ///< the byte order is the one that this machine has not
};

/// Where read_npy_values() puts the number of row i and column j, both counted from the first row read:
/// data[i * row_step + j * col_step].
template <Real S>
struct NpyTarget {
  S* data;
  Index row_step, col_step;
};

/// Reads `count` rows of numbers of type T, from row `first`, several lines at a time; a line is a row, or a column if
/// the file is in Fortran order. Throws io_error if the file ends early or S cannot hold a value.
template <class T, Real S>
void read_npy_values(std::FILE* file, const NpyLayout& layout, Index first, Index count, const NpyTarget<S>& to,
                     const std::string& path) {
  const bool fortran = layout.fortran_order;
  const Index lines = fortran ? layout.cols : count, length = fortran ? count : layout.cols;
  if (lines == 0 || length == 0) return;
  // Columns of which a part is read do not follow one another.
  const bool adjacent = !fortran || count == layout.rows;
  const Index step = adjacent ? std::clamp<Index>(Index{1 << 14} / length, 1, lines) : 1;
  std::vector<T> buffer(static_cast<std::size_t>(step * length));
  for (Index line = 0; line < lines; line += step) {
    const Index some = std::min(step, lines - line);
    if (line == 0 || !adjacent) {
      const Index number = fortran ? line * layout.rows + first : first * layout.cols;
      const std::uint64_t place = layout.begin + sizeof(T) * static_cast<std::uint64_t>(number);
      if (place > static_cast<std::uint64_t>(std::numeric_limits<long>::max()) ||
          std::fseek(file, static_cast<long>(place), SEEK_SET) != 0)
        throw io_error(path + ": cannot read: " + errno_message());
    }
    errno = 0;
    if (std::fread(buffer.data(), sizeof(T) * static_cast<std::size_t>(length), static_cast<std::size_t>(some), file) !=
        static_cast<std::size_t>(some))
      throw io_error(path + (std::feof(file) != 0 ? std::string(" was truncated while it was open")
                                                  : ": cannot read: " + errno_message()));
    if (layout.swapped) std::transform(buffer.begin(), buffer.end(), buffer.begin(), byte_swapped<T>);
    const auto copy = [&](Index i, Index k) {
      const T v = buffer[static_cast<std::size_t>(i * length + k)];
      const Index row = fortran ? k : line + i, col = fortran ? line + i : k;
      if (!npy_holds<S>(v)) [[unlikely]]
        throw io_error(concat_message(path, ": ", v, " at (row ", first + row, ", column ", col, ") does not fit in ",
                                      sizeof(S) == 4 ? "float" : "double"));
      to.data[row * to.row_step + col * to.col_step] = static_cast<S>(v);
    };
    // In the order in which the values are stored.
    if (fortran == (to.row_step < to.col_step) || length == 1)
      for (Index i = 0; i < some; ++i)
        for (Index k = 0; k < length; ++k) copy(i, k);
    else
      for (Index k = 0; k < length; ++k)
        for (Index i = 0; i < some; ++i) copy(i, k);
  }
}

/// Entry of the table of supported dtypes: its name without byte order, its size, and the function that reads it.
template <Real S>
struct NpyType {
  std::string_view name;
  std::uint64_t bytes;
  void (*read)(std::FILE*, const NpyLayout&, Index, Index, const NpyTarget<S>&, const std::string&);
};
template <Real S>
inline constexpr NpyType<S> npy_types[] = {
    {"f4", 4, read_npy_values<float, S>},        {"f8", 8, read_npy_values<double, S>},
    {"i1", 1, read_npy_values<std::int8_t, S>},  {"u1", 1, read_npy_values<std::uint8_t, S>},
    {"i2", 2, read_npy_values<std::int16_t, S>}, {"u2", 2, read_npy_values<std::uint16_t, S>},
    {"i4", 4, read_npy_values<std::int32_t, S>}, {"u4", 4, read_npy_values<std::uint32_t, S>},
    {"i8", 8, read_npy_values<std::int64_t, S>}, {"u8", 8, read_npy_values<std::uint64_t, S>}};

/// Returns the table entry of a dtype in either byte order. Throws io_error for an unsupported dtype.
template <Real S>
const NpyType<S>& find_npy_type(const std::string& dtype, const std::string& path) {
  const std::string_view text = dtype;
  for (const NpyType<S>& type : npy_types<S>)
    if (text.size() == 3 && text.substr(1) == type.name &&
        (text[0] == '<' || text[0] == '>' || (text[0] == '|' && type.bytes == 1)))
      return type;
  throw io_error(path + ": dtype " + excerpt(text) + " is not supported, expected float32, float64 or an integer type");
}

}  // namespace detail

/// An .npy file of format version 1.0, 2.0 or 3.0 in C or Fortran order that is open for reading, of which rows are
/// read when they are asked for. It is an N x D array; a 1-D array is N x 1. float32, float64 and integers of either
/// byte order are converted to S; NaN and infinity are kept. Rows of a file in C order are read at one place, those of
/// a file in Fortran order at D places. Reads from several threads take turns.
template <Real S>
class NpyFile {
 public:
  /// Opens the file. Throws `io_error`, naming the file, if it is missing or no .npy file, if its header is corrupt,
  /// for more than two dimensions, another dtype, and too few or too many bytes for its shape.
  explicit NpyFile(const std::string& path) : path_(path), file_(detail::open_to_read(path)) {
    const std::uint64_t file_bytes = detail::size_of_open_file(file_.get(), path);
    unsigned char start[12] = {};
    const std::size_t got = std::fread(start, 1, 10, file_.get());
    if (got < 6 || std::memcmp(start, "\x93NUMPY", 6) != 0) throw io_error(path + " is not an .npy file");
    const int format = start[6];
    if (got >= 8 && (format < 1 || format > 3 || start[7] != 0))
      throw io_error(
          concat_message(path, " has format version ", format, ".", int{start[7]}, ", expected 1.0, 2.0 or 3.0"));
    const std::size_t length_bytes = format == 1 ? 2 : 4;
    layout_.begin = 8 + length_bytes;
    std::uint64_t header_bytes = 0;
    const bool complete = got == 10 && (format == 1 || std::fread(start + 10, 1, 2, file_.get()) == 2);
    for (std::size_t i = length_bytes; i-- > 0;) header_bytes = header_bytes << 8 | start[8 + i];
    if (!complete || file_bytes < layout_.begin || file_bytes - layout_.begin < header_bytes)
      throw io_error(path + " is truncated in its header");
    std::string text(header_bytes, '\0');
    if (std::fread(text.data(), 1, text.size(), file_.get()) != text.size())
      throw io_error(path + ": cannot read: " + detail::errno_message());
    layout_.begin += header_bytes;

    const detail::NpyHeader header = detail::NpyHeaderParser(text, path).parse();
    type_ = &detail::find_npy_type<S>(header.dtype, path);
    if (header.shape.empty() || header.shape.size() > 2)
      throw io_error(concat_message(path, " has ", header.shape.size(), " dimensions, expected 1 or 2"));
    const std::uint64_t rows = header.shape[0], cols = header.shape.size() == 2 ? header.shape[1] : 1;
    const std::uint64_t limit = static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / sizeof(double);
    const auto shape = concat_message("shape (", rows, ", ", cols, ") of dtype ", header.dtype);
    if (rows > limit || cols > limit || (rows != 0 && cols > limit / rows))
      throw io_error(path + " has an absurd " + shape);
    const std::uint64_t expected = rows * cols * type_->bytes, found = file_bytes - layout_.begin;
    if (found != expected)
      throw io_error(concat_message(path, found < expected ? " is truncated: " : " is too long: ", shape, " is ",
                                    expected, " bytes of data, found ", found));
    layout_.rows = static_cast<Index>(rows);
    layout_.cols = static_cast<Index>(cols);
    layout_.fortran_order = header.fortran_order;
    layout_.swapped = header.dtype[0] != '|' && header.dtype[0] != detail::npy_byte_order;
  }

  Index rows() const { return layout_.rows; }
  Index cols() const { return layout_.cols; }
  const std::string& path() const { return path_; }

  /// Reads the rows first, first + 1, ... into values (M x D). Throws invalid_argument for rows that the file does not
  /// have and another number of columns, and `io_error` for a value that S cannot hold and if the file has become
  /// shorter since it was opened.
  void read_rows(Index first, View<S> values) const {
    require(values.cols == cols(), "read_rows: values has ", values.cols, " columns, ", path_, " has ", cols());
    read(first, values.rows, {values.data, 1, values.stride});
  }
  /// Reads M rows from row `first` into M D numbers, one row after another. Throws as read_rows() does.
  void read_rows_in_row_order(Index first, Index count, S* values) const { read(first, count, {values, cols(), 1}); }

 private:
  void read(Index first, Index count, const detail::NpyTarget<S>& to) const {
    require(first >= 0 && count >= 0 && first <= rows() - count, "read_rows: rows ", first, " to ", first + count, ", ",
            path_, " has ", rows());
    const std::lock_guard lock(mutex_);
    type_->read(file_.get(), layout_, first, count, to, path_);
  }

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  detail::NpyLayout layout_;
  const detail::NpyType<S>* type_ = nullptr;
  mutable std::mutex mutex_;
};

/// Reads a whole .npy file, as NpyFile does. Returns N x D for a 2-D array and N x 1 for a 1-D array. Throws
/// `io_error`, naming the file, as NpyFile does. Memory is allocated only after the file's size has been found to agree
/// with its header.
template <Real S>
Array<S> read_npy(const std::string& path) {
  const NpyFile<S> file(path);
  Array<S> values(file.rows(), file.cols());
  file.read_rows(0, view(values));
  return values;
}

/// Writes any Eigen expression of float or double, N x D, as a 2-D .npy file of the same precision in C order (rows are
/// samples). The file is an AtomicFile: an interrupted write leaves an existing file unchanged. Throws `io_error` when
/// the file cannot be written.
template <class Derived>
void write_npy(const std::string& path, const Eigen::DenseBase<Derived>& x) {
  using S = typename Derived::Scalar;
  static_assert(Real<S>, "write_npy: expected float or double");
  const Array<S> values = x.derived().array().transpose();  // one sample after another
  std::string text =
      concat_message("{'descr': '", detail::npy_byte_order, "f", sizeof(S), "', 'fortran_order': False, 'shape': (",
                     values.cols(), ", ", values.rows(), "), }");
  text.resize((10 + text.size() + 64) / 64 * 64 - 11, ' ');  // so that the data begins at a multiple of 64 bytes
  text += '\n';
  const char low = static_cast<char>(text.size() % 256), high = static_cast<char>(text.size() / 256);
  text = std::string("\x93NUMPY\x01\x00", 8) + low + high + text;

  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.write(values.data(), sizeof(S) * static_cast<std::size_t>(values.size()));
  file.commit();
}

}  // namespace diffeo::inline DIFFEO_ISA
