// As much of JSON as manifest.json and frames.json hold: a value, read from a text.
#pragma once
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  static Json read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    std::stringstream text;
    text << file.rdbuf();
    const std::string content = text.str();
    Reader reader{path, content.c_str(), content.c_str()};
    Json value = reader.value();
    reader.expect_end();
    return value;
  }

  // Each throws std::bad_variant_access for a value of another kind, at() std::out_of_range for a key that is not
  // there.
  const Array& array() const { return std::get<Array>(value_); }
  double number() const { return std::get<double>(value_); }
  bool boolean() const { return std::get<bool>(value_); }
  const std::string& text() const { return std::get<std::string>(value_); }
  const Json& at(const std::string& key) const {
    const Object& members = std::get<Object>(value_);
    const auto found = members.find(key);
    if (found == members.end()) throw std::out_of_range("no entry '" + key + "'");
    return found->second;
  }
  bool null() const { return std::holds_alternative<std::nullptr_t>(value_); }

  // Numbers of nested arrays, row by row.
  std::vector<double> numbers() const {
    if (std::holds_alternative<double>(value_)) return {number()};
    std::vector<double> all;
    for (const Json& item : array()) {
      const std::vector<double> part = item.numbers();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

 private:
  struct Reader {
    const std::string& path;
    const char *start, *at;

    [[noreturn]] void refuse(const std::string& what) const {
      throw std::runtime_error(path + ": byte " + std::to_string(at - start) + ": " + what);
    }
    char next() {
      while (*at != '\0' && std::isspace(static_cast<unsigned char>(*at))) ++at;
      return *at;
    }
    void expect(char c) {
      if (next() != c) refuse(std::string("expected ") + c);
      ++at;
    }
    void expect_end() {
      if (next() != '\0') refuse("expected the end");
    }
    bool take(const char* word) {
      const size_t length = std::strlen(word);
      if (std::strncmp(at, word, length) != 0) return false;
      at += length;
      return true;
    }

    Json value() {
      Json json;
      const char c = next();
      if (c == '{') {
        json.value_ = object();
      } else if (c == '[') {
        json.value_ = array();
      } else if (c == '"') {
        json.value_ = string();
      } else if (take("true")) {
        json.value_ = true;
      } else if (take("false")) {
        json.value_ = false;
      } else if (take("null")) {
        json.value_ = nullptr;
      } else {
        char* end = nullptr;
        json.value_ = std::strtod(at, &end);
        if (end == at) refuse("expected a value");
        at = end;
      }
      return json;
    }
    Array array() {
      Array items;
      expect('[');
      if (next() == ']') return ++at, items;
      for (;; expect(',')) {
        items.push_back(value());
        if (next() == ']') return ++at, items;
      }
    }
    Object object() {
      Object members;
      expect('{');
      if (next() == '}') return ++at, members;
      for (;; expect(',')) {
        next();
        const std::string key = string();
        expect(':');
        members[key] = value();
        if (next() == '}') return ++at, members;
      }
    }
    std::string string() {
      std::string text;
      expect('"');
      for (; *at != '"'; ++at) {
        if (*at == '\0') refuse("expected \"");
        if (*at == '\\')
          text += escaped(*++at);
        else
          text += *at;
      }
      ++at;
      return text;
    }
    char escaped(char c) {
      switch (c) {
        case 'n':
          return '\n';
        case 't':
          return '\t';
        case 'r':
          return '\r';
        case '"':
        case '\\':
        case '/':
          return c;
        default:
          refuse(std::string("the escape \\") + c + " is not read here");
      }
    }
  };

  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};
